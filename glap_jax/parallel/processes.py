"""Several processes that act as one run: how they find each other, agree, and leave work to the first."""

import itertools
import json
import os
import sys
from typing import Any

import jax

from glap_jax.errors import GlapError

# What launch scripts say in the environment of each process.
COORDINATOR, COUNT, NUMBER = "GLAP_JAX_COORDINATOR", "GLAP_JAX_PROCESSES", "GLAP_JAX_PROCESS"
# Under Slurm, GKE and on TPU VMs, JAX asks the scheduler who belongs together.
DETECT = "auto"
# A process that is silent for so long is lost, and its run with it.
SILENCE_SECONDS = 30
# An evaluation or an export may take so long while the other processes wait.
PATIENCE_SECONDS = 12 * 3600

_turns = itertools.cycle((0, 1))


def start() -> None:
    """Joins the processes that the environment names; without one, this process is alone.

    To be called before JAX looks at its devices. GLAP_JAX_COORDINATOR is `host:port` of process 0, with
    GLAP_JAX_PROCESSES and GLAP_JAX_PROCESS, how many there are and which this one is; or `auto`.

    Raises:
        GlapError: the environment names half a cluster, or there is nobody to be found in it.
    """
    coordinator = os.environ.get(COORDINATOR)
    if coordinator is None:
        return
    place: dict[str, Any] = {}
    if coordinator != DETECT:
        try:
            count, number = (int(os.environ[name]) for name in (COUNT, NUMBER))
        except (KeyError, ValueError):
            raise GlapError(
                f"processes: {COORDINATOR} is set, so {COUNT} and {NUMBER} must be whole numbers; set them, "
                f"or {COORDINATOR}={DETECT} where a scheduler knows"
            ) from None
        place = {"coordinator_address": coordinator, "num_processes": count, "process_id": number}
    try:
        jax.distributed.initialize(heartbeat_timeout_seconds=SILENCE_SECONDS, **place)
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise GlapError(
            f"processes: no cluster came about ({reason}); see that every process is started alike and "
            f"reaches the first one, or unset {COORDINATOR}"
        ) from error


def joined() -> bool:
    """Whether this process has joined others."""
    return jax.distributed.is_initialized()


def alone() -> bool:
    """Whether this process is the only one of its run."""
    return jax.process_count() == 1


def leads() -> bool:
    """Whether this is the process that writes logs, reports and models."""
    return jax.process_index() == 0


def gather(value: Any) -> list[Any]:
    """The JSON values that all processes give here, in their order, for each of them.

    Each leaves two values behind at most, however often they meet, so that every step may ask.
    """
    if alone():
        return [value]
    # Whoever writes to a place again has met the others since, who had read it before.
    place, client = f"glap_jax/gather/{next(_turns)}", _client()
    client.key_value_set(f"{place}/{jax.process_index()}", json.dumps(value), allow_overwrite=True)
    client.wait_at_barrier("glap_jax/gather", 1000 * PATIENCE_SECONDS)
    told = {int(key.rpartition("/")[2]): text for key, text in client.key_value_dir_get(place)}
    return [json.loads(told[index]) for index in range(jax.process_count())]


def most(number: int) -> int:
    """The largest of the numbers that all processes give here, for each of them."""
    return max(gather(number))


def wait() -> None:
    """Returns when every process has come here; devices stay free."""
    if not alone():
        _client().wait_at_barrier("glap_jax/wait", 1000 * PATIENCE_SECONDS)


def lost(error: Exception) -> GlapError:
    """What there is to say when devices fail in a run of several processes, mostly for one has ended."""
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    return GlapError(
        f"processes: process {jax.process_index()} lost the others ({reason:.200}); look at the end of the "
        "other processes' logs for the first that failed, then start all again with --resume"
    )


def leave(status: int) -> None:
    """Ends a process of several at once: at its usual end it would wait for those that it lets down."""
    if joined():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def by_itself() -> Any:
    """Orbax's options by which one process reads or writes without the others."""
    import orbax.checkpoint as ocp

    index = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"process{index}"
    )


def _client() -> Any:
    from orbax.checkpoint import multihost

    return multihost.get_jax_distributed_client()
