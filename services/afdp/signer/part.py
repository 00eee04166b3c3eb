"""One thing that the signer stands on, and how it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that the signer stands on.

    Attributes:
        name: what it is, in lower case, such as `vault` or `clock`; stable, for scripts read it.
        good: whether it does what is asked of it.
        detail: what it is like, in one sentence without a full stop; never a secret.
        remedy: what to do where it is not good, as an instruction; may stand beside a good one as advice.
        public: whether the detail may stand in `/ready`, which anybody may read: it names no machine, path or key.
    """

    name: str
    good: bool
    detail: str
    remedy: str = ""
    public: bool = False
