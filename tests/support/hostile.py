"""Text that would do something where it is not shown as text."""

from __future__ import annotations

# Each would call `alert` or load from elsewhere if a browser took it for more than text.
SCRIPTS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    '"><svg onload=alert(3)>',
    "'><iframe srcdoc='<script>alert(4)</script>'>",
    "javascript:alert(5)",
    "</title><script>alert(6)</script>",
    "</textarea><script>alert(7)</script>",
    "{{ 7*7 }}{% raw %}",
    "${alert(8)}",
    "<a href=//evil.example>x</a>",
    "<!--<script>alert(9)</script>-->",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<div hx-get='/logout' hx-trigger='load' hx-on:click='alert(10)'>",
    "&lt;script&gt;alert(11)&lt;/script&gt;",
    "\u202e<b>backwards</b>\u2066",
    "data: forged\n\nevent: screen\ndata: <script>alert(12)</script>",
)
