"""The plugin host: find, order, open, isolate, switch and unload plugins.

Built-in plugins come through the entry-point group ``roost.plugins`` like anybody's; an operator may add a folder of
files. Plugins are trusted code: they run in the bot's process with the bot's rights.
"""

from roost.plugins.declared import API_VERSION
from roost.plugins.discovery import GROUP, discover, inspect_plugins, refuse_unknown_tables
from roost.plugins.host import PluginHost
from roost.plugins.plugin_context import Context
from roost.plugins.records import PluginRecord, State, describe

__all__ = [
    "API_VERSION",
    "GROUP",
    "Context",
    "PluginHost",
    "PluginRecord",
    "State",
    "describe",
    "discover",
    "inspect_plugins",
    "refuse_unknown_tables",
]
