"""The help of a command: a first screen, and what there is beyond it by topic."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from jsonargparse import ArgumentParser

from blob_pyro.config.checks import unknown_name

WIDTH = 80
_ON_THE_SCREEN = ("positional arguments", "options", "Everything one run needs")
_LEFT_TO_ALL = ("help", "config", "print_config")

Actions = list[argparse.Action]


def help_text(parser: ArgumentParser, topics: Mapping[str, str], topic: str | None = None) -> str:
    """What `blob-pyro COMMAND --help [TOPIC]` prints.

    Args:
        parser: of the command.
        topics: what its groups of options do not tell, by name.
        topic: one of these, the name of a group of options, or "all"; None gives the first screen.

    Raises:
        ConfigError: an unknown topic; names the nearest one.
    """
    groups = _groups(parser)
    if topic is None:
        return _screen(parser, groups, topics)
    if topic == "all":
        return "\n".join([parser.format_help(), *(f"{name}:\n\n{text}\n" for name, text in topics.items())])
    if topic in groups:
        return _section(parser.format_help(), groups[topic][0])
    if topic in topics:
        return topics[topic]
    known = [*groups, *topics, "all"]
    raise unknown_name("--help", known, topic)


def _screen(parser: ArgumentParser, groups: Mapping[str, tuple[str, Actions]], topics: Mapping[str, str]) -> str:
    own = [
        action for group in parser._action_groups if group.title in _ON_THE_SCREEN for action in group._group_actions
    ]
    shown = [action for action in own if action.dest not in _LEFT_TO_ALL]
    parts = [f"usage: {parser.usage}\n\n{parser.description}\n"]
    if shown:
        parts.append(_listed("options", shown, argparse.HelpFormatter(parser.prog, max_help_position=24, width=WIDTH)))
    more = {name: title for name, (title, _) in groups.items()} | dict.fromkeys(topics, "")
    if more:
        parts.append(f"more: {parser.prog} --help TOPIC\n{_topics(more)}")
    return "\n".join(parts)


def _topics(more: Mapping[str, str]) -> str:
    titles = [name if title in ("", name) else f"{name} ({title})" for name, title in more.items()]
    lines = [""]
    for word in [f"{name}," for name in titles] + ["all"]:
        if len(lines[-1]) + len(word) + 3 > WIDTH:
            lines.append("")
        lines[-1] += f"{' ' if lines[-1] else '  '}{word}"
    return "\n".join(lines)


def _groups(parser: ArgumentParser) -> dict[str, tuple[str, Actions]]:
    """Groups of options beyond the first screen: name -> title and options. Sections go by the name of their key."""
    groups = {}
    names = {id(group): name for name, group in (parser.groups or {}).items()}
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if "." in action.dest or group.title not in _ON_THE_SCREEN]
        if actions and group.title not in _ON_THE_SCREEN:
            keys = [action for action in actions if "." in action.dest]
            name = keys[0].dest.split(".")[0] if keys else str(names.get(id(group)))
            groups[name] = (str(group.title), keys or actions)
    return groups


def _section(text: str, title: str) -> str:
    """The part of a whole help that stands below a title."""
    return f"{title}:" + text.split(f"\n{title}:", 1)[1].split("\n\n", 1)[0]


def _listed(title: str, actions: Actions, formatter: argparse.HelpFormatter) -> str:
    formatter.start_section(title)
    formatter.add_arguments(actions)
    formatter.end_section()
    return formatter.format_help()
