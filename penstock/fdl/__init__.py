"""The Functions Definition Language: text or JSON in, validated functions out.

Pure: no input or output, no clock, no logging. The caller passes the text and a function that reads script files. Every
refusal is an `InvalidInput` of one sentence whose `where` has the field and, in a file, its line.
"""

from penstock.fdl.document import parse_document
from penstock.fdl.draft import Document, Draft, Start
from penstock.fdl.loops import check_loops, cycles
from penstock.fdl.schema import known_keys
from penstock.fdl.service import parse_service

__all__ = ["Document", "Draft", "Start", "check_loops", "cycles", "known_keys", "parse_document", "parse_service"]
