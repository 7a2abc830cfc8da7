"""Source steam: invented records in Python's notation."""

from pathlib import Path

import pytest

from tests.source_files import interactions, lines, read, write

STEAM_REVIEW = (
    "{u'username': u'Nobody\\u2019s \"Twin\"', u'hours': 0.1, u'products': 41, u'product_id': u'700001', "
    "u'page_order': 0, u'date': u'2017-12-17', u'text': u\"it's a game\", u'early_access': False, u'page': 1}\n"
)
STEAM_GAME = (
    "{u'publisher': u'Nobody', u'genres': [u'Action', u'Indie'], u'app_name': u'Invented Trip', u'title': "
    "u'Invented Trip', u'url': u'http://x', u'release_date': u'2018-01-04', u'tags': [u'Space'], u'price': 4.99, "
    "u'specs': [u'Single-player'], u'early_access': False, u'id': u'700001', u'developer': u'Nobody'}\n"
)


def test_steam(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nameless = STEAM_REVIEW.replace("u'Nobody\\u2019s \"Twin\"'", "u' '")
    games = STEAM_GAME + STEAM_GAME.replace("Invented Trip", "Again") + STEAM_GAME.replace("u'id': u'700001', ", "")
    files = {"steam_reviews__json__gz": lines(STEAM_REVIEW, nameless), "steam_games__json__gz": games.encode()}
    source = read(write(tmp_path, **files), "steam")
    assert interactions(source) == [('Nobody\u2019s "Twin"', "700001", 1513468800)]
    text = "Invented Trip. Action, Indie. Space. Nobody"
    assert source.items.to_dict("records") == [{"item_id": "700001", "title": "Invented Trip", "text": text}]
    assert "1 reviews without a user name are left out" in caplog.text
