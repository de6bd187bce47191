from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from workbench.checkpoints import load_tree
from workbench.notebook import find_notebook
from workbench.runs import read_result

PATIENCE = 240  # seconds


@pytest.fixture
def kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[KernelManager, BlockingKernelClient]]:
    """A kernel, and a client that asks as front ends do."""
    monkeypatch.chdir(tmp_path)
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(tmp_path))
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=PATIENCE)
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.mark.slow
def test_interrupted_while_all_cells_run_those_below_take_the_picture_so_far(
    kernel: tuple[KernelManager, BlockingKernelClient], tmp_path: Path
) -> None:
    manager, client = kernel
    cells = nbformat.read(find_notebook("stylize_image"), 4).cells
    parameters, *rest = [cell.source for cell in cells if cell.cell_type == "code"]
    parameters += "\nsize, steps, gif_frames = 64, [2000], 4"
    asked = [client.execute(source) for source in (parameters, *rest)]
    interrupt_at(
        client, manager, r"\b([2-9]|[1-9]\d{1,2})/2000"
    )  # whichever step the bar shows first
    replies = [reply_to(client, request) for request in asked]
    assert [reply["status"] for reply in replies] == ["ok"] * len(asked)
    folder = tmp_path / "runs" / "stylize_image"
    result = read_result(folder)
    assert result is not None
    steps = int(result.figures["steps"])
    assert 1 <= steps < 2000
    stopped = f"Stopped at step {steps} of 2000. The cells below take what there is so far;"
    interrupt_at(client, manager, re.escape(stopped), really=False)

    # What it needs to go on lies there at once, not only when the cell is run again.
    (checkpoint,) = (folder / "picture.checkpoint").glob("workbench-run-*")
    step = load_tree(checkpoint)["moment"]["step"]
    assert step - steps in (0, 1)  # one more, if it was not looked at any more
    again = client.execute(rest[2])
    interrupt_at(client, manager, f"Going on from step {step} in ", really=False)
    interrupt_at(client, manager, "64 px, loss", really=False)
    interrupt_at(client, manager, "64 px, loss")  # a later one
    assert reply_to(client, again)["status"] == "ok"
    assert read_result(folder) == result


def interrupt_at(
    client: BlockingKernelClient, manager: KernelManager, pattern: str, *, really: bool = True
) -> None:
    """Wait until something is shown, and interrupt the kernel then."""
    deadline = time.monotonic() + PATIENCE
    text = ""
    while not re.search(pattern, text):
        message = client.get_iopub_msg(timeout=max(0.1, deadline - time.monotonic()))
        content = message["content"]
        text = content.get("text") or content.get("data", {}).get("text/plain", "")
    if really:
        manager.interrupt_kernel()


def reply_to(client: BlockingKernelClient, request: str) -> dict[str, str]:
    while (reply := client.get_shell_msg(timeout=PATIENCE))["parent_header"]["msg_id"] != request:
        pass
    content: dict[str, str] = reply["content"]
    return content
