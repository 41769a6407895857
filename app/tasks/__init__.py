"""Integration tasks: a phone, an email or a prompt, answered by a third party that is paid for each answer."""
