"""The words of ``/privacy``: every reason has some, in every language that there is."""

from __future__ import annotations

import pytest

from roost.audio import Unheard, Unshown
from roost.commands.privacy import TEXTS, WHY_UNHEARD, WHY_UNSHOWN

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("why", [each for each in Unheard if each is not Unheard.IDLE])
def test_every_reason_not_to_be_heard_has_words(why: Unheard) -> None:
    assert WHY_UNHEARD[why].format(plugin="the plugin x", channel=1)
    for language in TEXTS.languages:
        assert TEXTS(language, f"unheard-{why.value}", "", plugin="the plugin x", channel=1)


@pytest.mark.parametrize("why", Unshown)
def test_every_reason_not_to_show_captions_has_words(why: Unshown) -> None:
    assert WHY_UNSHOWN[why].format(channel=1)
    for language in TEXTS.languages:
        assert TEXTS(language, f"unshown-{why.value}", "", channel=1)
