"""Runs operations that could have ended at once but were told to wait (`--operation-delay`)."""

from typing import Any

from darkroom.domain.operation import Claim, Operation
from darkroom.operations.desk import Ending
from darkroom.operations.effect import Effect
from darkroom.operations.running import PhasedWatch, Publish, Runner
from darkroom.storage.port import Transaction


class DelayedEnding:
    """Completes or withdraws an announced effect."""

    def abandon(self, tx: Transaction, operation: Operation, payload: dict[str, Any]) -> None:
        Effect.from_record(payload["effect"]).withdraw(tx)

    def fail(self, tx: Transaction, operation: Operation, payload: dict[str, Any]) -> None:
        Effect.from_record(payload["effect"]).withdraw(tx)


class Delayed(DelayedEnding):
    """A runner whose work is done by its transaction."""

    def run(self, claim: Claim, watch: PhasedWatch) -> Publish:
        watch.enter("apply")
        effect = Effect.from_record(claim.payload["effect"])
        response: dict[str, Any] = claim.payload["response"]

        def publish(tx: Transaction) -> dict[str, Any]:
            effect.complete(tx)
            return response

        return publish

    def clean(self, claim: Claim) -> None:
        """Nothing was written outside the database."""


class EitherEnding:
    """For a kind whose operations move bytes or not: each goes to the ending that knows it."""

    def __init__(self, moving: Ending) -> None:
        self._moving = moving
        self._delayed = DelayedEnding()

    def abandon(self, tx: Transaction, operation: Operation, payload: dict[str, Any]) -> None:
        ending = self._delayed if "effect" in payload else self._moving
        ending.abandon(tx, operation, payload)

    def fail(self, tx: Transaction, operation: Operation, payload: dict[str, Any]) -> None:
        ending = self._delayed if "effect" in payload else self._moving
        ending.fail(tx, operation, payload)


class EitherRunner(EitherEnding):
    """The same for runners."""

    def __init__(self, moving: Runner) -> None:
        super().__init__(moving)
        self._runner = moving
        self._delayed_runner = Delayed()

    def run(self, claim: Claim, watch: PhasedWatch) -> Publish:
        runner = self._delayed_runner if "effect" in claim.payload else self._runner
        return runner.run(claim, watch)

    def clean(self, claim: Claim) -> None:
        self._runner.clean(claim)
