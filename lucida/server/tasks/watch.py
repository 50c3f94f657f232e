"""The scan of a text: which features are on at each of its tokens."""

from typing import TYPE_CHECKING, Any

from lucida.server.messages import WatchedFeature, WatchedGroup, WatchedToken, WatchRequest, WatchResult

if TYPE_CHECKING:
    from lucida.features.reading.watch import WatchedToken as Scanned
    from lucida.microscope import Microscope
    from lucida.server.line import Line


def run(scope: "Microscope", request: dict[str, Any], line: "Line") -> dict[str, Any]:
    """A WatchResult, as a dict. Raises PromptError for a text that cannot be read."""
    asked = WatchRequest.model_validate(request)
    line.progress("reading the text", 0, 1)
    found = scope.watch(asked.text, count=asked.count, densest=asked.densest)
    line.progress("reading the text", 1, 1)
    groups = [
        WatchedGroup(
            name=group.name, features=list(group.features), positions=list(group.positions), strength=group.strength
        )
        for group in found.groups
    ]
    return WatchResult(tokens=[_token(token) for token in found.tokens], groups=groups).model_dump()


def _token(token: "Scanned") -> WatchedToken:
    return WatchedToken(
        position=token.position,
        text=token.text,
        features=[
            WatchedFeature(
                layer=each.layer, feature=each.feature, activation=each.activation, strength=each.strength,
                label=each.label,
            )
            for each in token.features
        ],
        n_active=token.n_active,
        n_dense=token.n_dense,
    )  # fmt: skip
