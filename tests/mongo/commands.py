"""The commands that a client reports to have sent."""

from __future__ import annotations

from pymongo import monitoring


class Commands(monitoring.CommandListener):
    """Records the commands that a client sends about its messages, without those about wake-ups."""

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
