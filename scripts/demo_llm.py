"""A question about a text that is longer than one rank may hold; ``bash scripts/demo.sh --llm`` runs this.

Two ranks read the licence of this project, in which a sentence is hidden, and answer by ``tokenring-xdit ask``; then
the unmodified model of transformers answers in one process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch
import transformers

from tokenring_xdit.pipelines.text_models import SMOLLM2, load_text_model

ROOT = Path(__file__).parents[1]

RANKS, LIMIT, ANSWER = 2, 1500, 24
"""The limit is of tokens whose keys a rank may hold."""

SENTENCE = "The name of the captain's cat is Biscuit."
QUESTION = "What is the name of the captain's cat?"


def text() -> str:
    """The licence's beginning with the sentence in its middle."""
    paragraphs = (ROOT / "LICENSE").read_text(encoding="utf-8")[:9000].split("\n\n")
    middle = len(paragraphs) // 2
    return "\n\n".join([*paragraphs[:middle], SENTENCE, *paragraphs[middle:]])


def main() -> None:
    """Ask twice, and compare."""
    file = ROOT / "outputs" / "demo-llm.txt"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text(), encoding="utf-8")
    command = [sys.executable, "-m", "tokenring_xdit", "ask", SMOLLM2, QUESTION, "--context", str(file)]
    command += [f"--ranks={RANKS}", f"--tokens-per-rank={LIMIT}", f"--max-new-tokens={ANSWER}", "--dtype=float32"]
    print(f"The text: {file.relative_to(ROOT)}, the licence of this project with a sentence in its middle: {SENTENCE}")
    print(f"The limit: keys of {LIMIT} tokens a rank. Asking {RANKS} ranks ...", flush=True)
    asked = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, text=True, check=False)
    if asked.returncode:
        sys.exit(asked.returncode)
    found = json.loads(asked.stdout)
    print("The same question to the unmodified model in one process, without a limit ...\n", flush=True)
    alone, answer = one_process(file.read_text(encoding="utf-8"))
    rows = [
        ("question", QUESTION),
        (f"{RANKS} ranks", found["answer"]),
        ("one process", answer),
        ("tokens read", f"{found['prompt_tokens']}, {found['prompt_tokens'] - LIMIT} more than one rank may hold"),
        ("held by a rank", ", ".join(f"rank {rank}: {held}" for rank, held in enumerate(found["keys"]))),
        ("seconds", f"{found['seconds']:.1f}, without starting the ranks"),
    ]
    for name, value in rows:
        print(f"{name:>14}  {value}")
    same = found["tokens"] == alone
    print(f"{'tokens':>14}  {'the same' if same else 'DIFFERENT'}: {found['tokens']}" + ("" if same else f", {alone}"))
    sys.exit(not same)


def one_process(context: str) -> tuple[list[int], str]:
    """The greedy answer of the model as transformers has it, as tokens and as text."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()  # demo.sh switches off the other one, with TQDM_DISABLE
    tokenizer, model = load_text_model(SMOLLM2, "float32")
    messages = [{"role": "user", "content": f"{context}\n\n{QUESTION}"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
    with torch.no_grad():
        whole = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=ANSWER, do_sample=False)
    said = whole[0, ids.shape[1] :]
    return said.tolist(), tokenizer.decode(said, skip_special_tokens=True)


if __name__ == "__main__":
    main()
