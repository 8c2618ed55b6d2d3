"""A candidate policy beside the live one, on the same feed; it changes nothing."""
