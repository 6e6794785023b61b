"""Reminds people by mail until they answer: an application on Pitstop.

``escalation``, ``report`` and ``digest`` each have a kind of message, with a function that stores it and one that handles it.
``service`` puts them together. ``python -m reminders`` runs it.
"""
