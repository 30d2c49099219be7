"""The options of a purifier on a command line: `--purifier.kind`, and the settings of all kinds side by side."""

import inspect
import re
from functools import cache
from typing import Any, get_type_hints

import tyro
from rp_purify.settings import KINDS, PurifierSettings, settings_of, uses

REGISTRY = tyro.constructors.ConstructorRegistry()


@REGISTRY.struct_rule
def _flat(info: tyro.constructors.StructTypeInfo) -> tyro.constructors.StructConstructorSpec | None:
    """A field of `PurifierSettings` takes the settings of every kind; one that its kind does not use is refused."""
    if not (isinstance(info.type, type) and issubclass(info.type, PurifierSettings)):
        return None
    start = info.default if isinstance(info.default, PurifierSettings) else settings_of("mae-pure")
    given = {name: getattr(start, name) for name in uses(start.kind)}

    def chosen(kind: str, **values: Any) -> PurifierSettings:
        named = {n: v for n, v in values.items() if (v != given[n] if n in given else v is not None)}
        kept = {n: v for n, v in given.items() if n in uses(kind)}
        return settings_of(kind, **{**kept, **named})

    words = f"one of {', '.join(KINDS)}; another kind keeps the settings that it shares"
    fields = [tyro.constructors.StructFieldSpec("kind", str, start.kind, words)]
    for name, (annotation, help_) in _settings().items():
        foreign = name not in given
        annotation = annotation | None if foreign else annotation
        fields.append(tyro.constructors.StructFieldSpec(name, annotation, given.get(name), help_))
    return tyro.constructors.StructConstructorSpec(chosen, tuple(fields))


@cache
def _settings() -> dict[str, tuple[Any, str]]:
    """Type and help of every setting: the comment beside it, and the kinds that have it."""
    comments = {cls: _comments(cls) for kind in KINDS.values() for cls in kind.__mro__}
    kinds = {name: [kind for kind in KINDS if name in uses(kind)] for kind in KINDS for name in uses(kind)}
    found = {}
    for name, having in kinds.items():
        first = KINDS[having[0]]
        comment = next(comments[cls][name] for cls in first.__mro__ if name in comments[cls])
        found[name] = (get_type_hints(first)[name], f"of {', '.join(having)}: {comment}")
    return found


def _comments(cls: type) -> dict[str, str]:
    """The comment behind each field of a dataclass."""
    if not issubclass(cls, PurifierSettings):
        return {}
    return dict(re.findall(r"^    (\w+): .*?  # (.*)$", inspect.getsource(cls), flags=re.MULTILINE))
