from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from atspeed_core.errors import UserError
from atspeed_core.validation import explain, read_model


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Part(Strict):
    size: int = 0


class Whole(Strict):
    parts: list[Part] = []
    named: dict[str, Part] = {}
    maybe: Part | None = None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prats": []}, "unknown key 'prats'; did you mean 'parts'?"),
        ({"parts": [{}, {"szie": 1}]}, "unknown key 'parts.1.szie'; did you mean 'size'?"),
        ({"named": {"a": {"szie": 1}}}, "unknown key 'named.a.szie'; did you mean 'size'?"),
        ({"maybe": {"szie": 1}}, "unknown key 'maybe.szie'; did you mean 'size'?"),
        ({"maybe": {"xyz": 1}}, "unknown key 'maybe.xyz'; known: size"),
        ({"parts": [{"size": "many"}]}, "'parts.0.size': Input should be a valid integer"),
        (None, "Input should be a valid dictionary or instance of Whole"),
    ],
)
def test_a_fault_is_named_with_its_place(values: object, message: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Whole.model_validate(values)
    assert explain(raised.value, Whole).startswith(message)


def test_every_fault_is_in_the_one_line() -> None:
    with pytest.raises(ValidationError) as raised:
        Whole.model_validate({"prats": 1, "maybe": {"size": "x"}})
    message = explain(raised.value, Whole)
    assert message.count("; ") == 2
    assert "\n" not in message


@pytest.mark.parametrize("content", [b'{"parts": 3}', b'{"parts": [', b"\xff\xfe"])
def test_a_damaged_file_names_the_remedy(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "whole.json"
    with pytest.raises(UserError, match=r"whole\.json: no such file; make it$"):
        read_model(path, Whole, if_missing="make it", if_damaged="make it anew")
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"whole\.json: damaged \(.+\); make it anew$"):
        read_model(path, Whole, if_missing="make it", if_damaged="make it anew")
