"""C20: requests with expressions on any label key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import InvalidInput
from scaler.interface.expressions import MOST_TERMS, Terms, parse_expressions
from scaler.model import PodSpec, Requirement
from scaler.predicates import obstacle

R = Requirement


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ('kubernetes.io/arch == "arm64"', ((R("kubernetes.io/arch", "In", ("arm64",)),),)),
        ("zone != a", ((R("zone", "NotIn", ("a",)),),)),
        ("zone in ['a', \"b\"]", ((R("zone", "In", ("a", "b")),),)),
        ("gpu", ((R("gpu", "Exists"),),)),
        ("!gpu", ((R("gpu", "DoesNotExist"),),)),
        ("cores >= 8 && cores < 64", ((R("cores", "Gt", ("7",)), R("cores", "Lt", ("64",))),)),
        ("!(cores > 8)", ((R("cores", "Lt", ("9",)),),)),
        ("memory > 4gb", ((R("memory", "Gt", (str(4 << 30),)),),)),
        ("a || b && c", ((R("a", "Exists"),), (R("b", "Exists"), R("c", "Exists")))),
        ("!(a || b)", ((R("a", "DoesNotExist"), R("b", "DoesNotExist")),)),
        ("(a || b) && c", ((R("a", "Exists"), R("c", "Exists")), (R("b", "Exists"), R("c", "Exists")))),
    ],
)
def test_c20_expressions_become_affinity(text: str, terms: object) -> None:
    assert parse_expressions([text]) == terms


def test_c20_several_expressions_all_hold_and_none_is_no_condition() -> None:
    assert parse_expressions(["a", "b"]) == ((R("a", "Exists"), R("b", "Exists")),)
    assert parse_expressions([]) == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "e: is empty"),
        ("a &&", "e: something is missing at the end (character 5)"),
        ("a + 1 == 2", "'+ 1 == 2' cannot be read (character 2)"),
        ("a subset b", "not 'subset'; arithmetic and subset are not known here (character 2)"),
        ("a < many", "a whole number is expected after '<', not 'many'"),
        ("a in b", "'[' is expected, not 'b'"),
        ("(a", "something is missing"),
        ('"a" == b', "the key of a label is expected, not 'a'"),
        ("a == ==", "a value is expected"),
        ("(" * 50 + "a" + ")" * 50, "nested deeper"),
        (" && ".join(f"(a{number} || b{number})" for number in range(7)), f"more than {MOST_TERMS} alternatives"),
        ("a" * 3000, "longer than"),
    ],
)
def test_a_wrong_expression_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_expressions([text], where="e")
    assert message in str(caught.value)


leaves = st.tuples(st.sampled_from("abc"), st.sampled_from(["==", "!=", "<", ">="]), st.integers(1, 3))
trees = st.recursive(
    leaves,
    lambda inner: st.tuples(st.just("!"), inner) | st.tuples(st.sampled_from(["&&", "||"]), inner, inner),
    max_leaves=4,
)


def written(tree: tuple[object, ...]) -> str:
    if tree[0] == "!":
        return f"!({written(tree[1])})"  # type: ignore[arg-type]
    if tree[0] in {"&&", "||"}:
        return f"({written(tree[1])}) {tree[0]} ({written(tree[2])})"  # type: ignore[arg-type]
    return f"{tree[0]} {tree[1]} {tree[2]}"


def holds(tree: tuple[object, ...], known: dict[str, str]) -> bool:
    if tree[0] == "!":
        return not holds(tree[1], known)  # type: ignore[arg-type]
    if tree[0] in {"&&", "||"}:
        both = [holds(part, known) for part in tree[1:]]  # type: ignore[arg-type]
        return all(both) if tree[0] == "&&" else any(both)
    value, number = known[str(tree[0])], str(tree[2])
    return {"==": value == number, "!=": value != number, "<": value < number, ">=": value >= number}[str(tree[1])]


@given(tree=trees, known=st.fixed_dictionaries({key: st.sampled_from(["1", "2", "3"]) for key in "abc"}))
def test_what_is_read_means_what_was_written(tree: tuple[object, ...], known: dict[str, str]) -> None:
    terms = parse_expressions([written(tree)])
    spec = PodSpec(affinity=terms)
    assert (obstacle(spec, tuple(sorted(known.items())), ()) == "") == holds(tree, known)


@given(text=st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    where = "expressions"
    terms: Terms = ()
    try:
        terms = parse_expressions([text])
    except InvalidInput as error:
        where = error.where
    assert where == "expressions"
    assert all(requirement.key for term in terms for requirement in term)
