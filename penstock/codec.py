"""How values become bytes for the log: JSON, one shared encoder and one decoder per type, made once."""

from __future__ import annotations

import msgspec

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
