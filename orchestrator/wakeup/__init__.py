"""How idle processes learn that there is work: notifications, as a hint.

Polling is the truth. A notification may be lost with its connection, or never come behind a pooler;
so whoever waits here also looks now and then, and everything works without any notification.
"""
