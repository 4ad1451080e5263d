"""How values become bytes for the log: JSON, one shared encoder and one decoder per type, made once. And how a body
that somebody sent becomes a value, or one sentence.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from penstock.errors import InvalidInput
from penstock.model import Command, DeadLetter, Function, FunctionDemand, Record, Trigger

_encoder = msgspec.json.Encoder()
encode = _encoder.encode

_trigger_decoder: msgspec.json.Decoder[Trigger] = msgspec.json.Decoder(Trigger)
decode_trigger = _trigger_decoder.decode
decode_record = msgspec.json.Decoder(Record).decode
decode_command = msgspec.json.Decoder(Command).decode
decode_dead = msgspec.json.Decoder(DeadLetter).decode
decode_demand = msgspec.json.Decoder(FunctionDemand).decode
decode_function = msgspec.json.Decoder(Function).decode

T = TypeVar("T")


def decode_body(body: bytes, kind: type[T]) -> T:
    """A JSON body of a request as a type. Raises InvalidInput."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise InvalidInput(str(error), where="request body") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"this is not JSON: {error}", where="request body") from error
