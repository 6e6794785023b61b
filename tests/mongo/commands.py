"""What a client sends, by its own word."""

from __future__ import annotations

from pymongo import monitoring


class Commands(monitoring.CommandListener):
    """Notes the commands that a client sends about its messages; those about the hints for others are left out."""

    def __init__(self):
        self.commands = []

    @property
    def sent(self):
        """Their names."""
        return [name for name, _ in self.commands]

    def clear(self):
        self.commands.clear()

    def started(self, event):
        command, name = event.command, event.command_name
        about = [command[name], command.get("filter", {}).get("name")]
        if name != "hello" and not any(str(each).endswith(".wakeups") for each in about):
            self.commands.append((name, command))

    def succeeded(self, event):
        pass

    def failed(self, event):
        pass
