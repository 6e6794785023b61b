"""``consume``: handlers are called with messages, in threads or in an event loop, until there is a reason to end.

Threads: none runs this module.
"""
