"""Clause 5: what a filter does not admit never reaches the stream."""

from __future__ import annotations

from typing import Final, final

from typing_extensions import override

from ffcompletion.contract.errors import Unavailable
from ffcompletion.contract.filter import ScannerFilter
from ffcompletion.contract.protocols import CompletionFilter
from ffcompletion.testing.check import clause
from ffcompletion.testing.harness import Harness
from ffcompletion.testing.subject import Execution, fresh

__all__ = [
    "check_admitted",
    "check_both",
    "check_fails_closed",
    "check_fails_closed_under_faults",
    "check_namespace",
    "check_noop",
    "check_own_filter",
    "check_refuses",
    "check_tag",
]

_OURS: Final = ScannerFilter("conformance-a")
_TAG: Final = ("conformance", "yes")


@clause("5.1", "a namespace filter admits its namespace and nothing else")
async def check_namespace(harness: Harness) -> None:
    """Another tenant's, one that looks alike, and in between."""
    stream = await harness.filtered(_OURS, fresh(namespace="conformance-a"))
    ours = [fresh(namespace="conformance-a") for _ in range(10)]
    others = [
        fresh(namespace=name) for name in ("conformance-b", "conformance-", "conformance-aa", "CONFORMANCE-A", "")
    ]
    for n, item in enumerate(ours):
        await harness.announce(item, others[n % len(others)])
    await harness.nothing_but(
        stream, ours, fresh(namespace="conformance-a"), "nothing of another namespace is delivered"
    )


@clause("5.2", "what a filter admits is delivered, all of it")
async def check_admitted(harness: Harness) -> None:
    """By namespace, by tag, by both."""
    both = _OURS.with_instance_tag(*_TAG)
    wanted = [_OURS, ScannerFilter.NOOP.with_instance_tag(*_TAG), both]
    streams = [await harness.filtered(each, fresh(namespace="conformance-a", tags=dict([_TAG]))) for each in wanted]
    items = [fresh(namespace="conformance-a", tags={_TAG[0]: _TAG[1], "other": "x"}) for _ in range(20)]
    await harness.announce(*items)
    for stream in streams:
        await harness.all(stream, items, "everything that the filter admits is delivered")


@clause("5.3", "a tag filter admits that value of that tag and nothing else")
async def check_tag(harness: Harness) -> None:
    """Another value, another key, no tags at all."""
    stream = await harness.filtered(ScannerFilter.NOOP.with_instance_tag(*_TAG), fresh(tags=dict([_TAG])))
    key, value = _TAG
    ours = [fresh(tags={key: value}) for _ in range(6)]
    others = [fresh(tags=tags) for tags in ({key: "no"}, {"other": value}, {}, {key: value + " "}, {value: key})]
    for n, item in enumerate(ours):
        await harness.announce(item, others[n % len(others)])
    await harness.nothing_but(stream, ours, fresh(tags={key: value}), "nothing without that tag is delivered")


@clause("5.4", "both dimensions of a filter must match")
async def check_both(harness: Harness) -> None:
    """The right tenant with the wrong tag, and the other way round."""
    both = _OURS.with_instance_tag(*_TAG)
    stream = await harness.filtered(both, fresh(namespace="conformance-a", tags=dict([_TAG])))
    key, value = _TAG
    await harness.announce(
        fresh(namespace="conformance-a"),
        fresh(tags={key: value}),
        fresh(namespace="conformance-a", tags={key: "no"}),
        fresh(namespace="conformance-b", tags={key: value}),
    )
    marker = fresh(namespace="conformance-a", tags={key: value})
    await harness.nothing_but(stream, [], marker, "nothing is delivered that matches one dimension only")


@clause("5.5", "what cannot be decided is not delivered")
async def check_fails_closed(harness: Harness) -> None:
    """An execution without a namespace is nobody's."""
    stream = await harness.filtered(_OURS, fresh(namespace="conformance-a"))
    await harness.announce(*[fresh(namespace=None) for _ in range(5)])
    await harness.nothing_but(stream, [], fresh(namespace="conformance-a"), "what has no namespace is not delivered")


@clause("5.6", "a no-op filter admits everything")
async def check_noop(harness: Harness) -> None:
    """As if it were not there; also where filters are refused."""
    stream = await harness.filtered(ScannerFilter.NOOP, fresh())
    items = [fresh(), fresh(namespace="conformance-a"), fresh(tags={"k": "v"})]
    await harness.announce(*items)
    await harness.all(stream, items, "a no-op filter admits everything")


@clause("5.7", "a backend without filtering refuses filters")
async def check_refuses(harness: Harness) -> None:
    """``Unavailable``, or a stream that filters: never one that does not."""
    try:
        stream = harness.kept(await harness.backend.subscribe_completions_filtered(_OURS))
    except Unavailable:
        return
    except Exception as exc:
        raise harness.broken("a filter is honoured, or refused with Unavailable", f"it raised {exc!r}") from exc
    await harness.warmed(stream, fresh(namespace="conformance-a"))
    await harness.announce(fresh(namespace="conformance-b"))
    marker = fresh(namespace="conformance-a")
    await harness.nothing_but(stream, [], marker, "a filter that is accepted is honoured")


@final
class _Even(CompletionFilter):
    """Somebody's own filter; raises for one namespace."""

    @property
    @override
    def tag_key(self) -> str | None:
        return "number"

    @override
    def is_noop(self, /) -> bool:
        return False

    @override
    def matches(self, core_namespace: str | None, tag_value: str | None, /) -> bool:
        if core_namespace == "raises":
            raise ZeroDivisionError
        return tag_value is not None and int(tag_value) % 2 == 0


@clause("5.8", "a filter of one's own is honoured, and one that raises admits nothing")
async def check_own_filter(harness: Harness) -> None:
    """Any object with the three members; what ``matches`` raises counts as no."""
    stream = await harness.filtered(_Even(), fresh(namespace="conformance-a", tags={"number": "0"}))
    even = [fresh(namespace="conformance-a", tags={"number": str(n)}) for n in (0, 2)]
    await harness.announce(
        fresh(namespace="raises", tags={"number": "2"}),
        even[0],
        fresh(namespace="conformance-a", tags={"number": "1"}),
        fresh(namespace="conformance-a", tags={"number": "x"}),
        even[1],
    )
    came = await harness.all(stream, even, "what the filter's matches() admits is delivered, also after it has raised")
    if others := set(came) - {item.execution_id for item in even}:
        raise harness.broken(
            "what the filter's matches() does not admit is not delivered", f"{min(others)} came as well"
        )
    marker = fresh(namespace="conformance-a", tags={"number": "4"})
    await harness.nothing_but(stream, [], marker, "what the filter's matches() does not admit is not delivered")


@clause("5.9", "filters fail closed around a disconnect")
async def check_fails_closed_under_faults(harness: Harness) -> None:
    """Two tenants, a connection that is cut in between: neither sees the other's."""
    stream = await harness.filtered(_OURS, fresh(namespace="conformance-a"))
    ours: list[Execution] = []
    for _ in range(3):
        batch = [fresh(namespace="conformance-a"), fresh(namespace="conformance-b"), fresh()]
        ours.append(batch[0])
        await harness.announce(*batch)
        await harness.faults.disconnect()
        await harness.announce(*[fresh(namespace="conformance-b") for _ in range(5)])
    allowed = {item.execution_id for item in ours}
    expected = "nothing of another namespace is delivered"
    for _ in range(10):
        # It may take a moment to be live again.
        marker = fresh(namespace="conformance-a")
        allowed.add(marker.execution_id)
        await harness.announce(marker)
        for id_ in await harness.what_comes(stream, marker):
            if id_ not in allowed:
                raise harness.broken(expected, f"{id_} came as well")
