"""What it costs to show words before they are finished, and how soon the first ones stand there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import live
from decode import quantile
from recordings import Clip

from roost_stt.protocol.wishes import Wish

TALKERS = (1, 4, 10, 20)


async def measure(options: dict[str, Any], clips: Sequence[Clip], seconds: float) -> dict[str, Any]:
    """The time to the final text without and with partials, for several numbers of talkers."""
    figures: dict[str, Any] = {}
    for talkers in TALKERS:
        figure: dict[str, Any] = {}
        for name, wanted in (("without", False), ("with", True)):
            async with live.listener("ours", options) as listening:
                listening.worker.wish(Wish(live.GUILD, language="en", partials=wanted))
                said = await live.crowd(listening, clips, talkers, seconds, talkers)
                figure[name] = live.latency(said, listening)
                if wanted:
                    figure |= shown(said, listening)
        figures[str(talkers)] = figure
    return figures


def shown(said: Sequence[live.Said], listening: live.Listener) -> dict[str, Any]:
    """Of utterances long enough to have any: how many had partials, and when the first one came."""
    long = [each for each in said if each.clip.seconds >= 2.0]
    firsts = []
    for each in long:
        times = [at for user, at in listening.partials if user == each.user and each.began <= at <= each.ended + 0.2]
        if times:
            firsts.append(times[0] - each.began)
    stats = listening.worker.stats()["worker"]
    return {
        "shown_pct": round(len(firsts) / max(1, len(long)) * 100),
        "first_words_p50_s": round(quantile(firsts, 0.5), 2) if firsts else None,
        "drafts": stats["drafts"],
        "shed": stats["partials_shed"],
    }
