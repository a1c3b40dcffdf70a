"""A question about a long text to a language model, over the ranks that torchrun starts: prompts and keys are sharded.

torchrun --nproc-per-node 8 examples/language_model.py --text book.txt --question "Who did it?"
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import tokenring_xdit

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="Qwen/Qwen2.5-7B-Instruct", help="folder or hub name")
parser.add_argument("--text", type=Path, required=True, help="a file")
parser.add_argument("--question", default="What is this text about?")
parser.add_argument("--tokens", type=int, default=200, help="of the answer, at most")
args = parser.parse_args()

gpu = torch.cuda.is_available()
device = f"cuda:{os.environ['LOCAL_RANK']}" if gpu else "cpu"
tokenizer = AutoTokenizer.from_pretrained(args.model)
model = AutoModelForCausalLM.from_pretrained(args.model, dtype="auto" if gpu else torch.float32).to(device).eval()

tokenring_xdit.parallelize(model, tokenring_degree=int(os.environ["WORLD_SIZE"]))

messages = [{"role": "user", "content": f"{args.text.read_text(encoding='utf-8')}\n\n{args.question}"}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
ids = inputs["input_ids"].to(device)
answer = model.generate(ids, max_new_tokens=args.tokens, do_sample=False)
if os.environ["RANK"] == "0":  # the tokens are the same on every rank
    print(tokenizer.decode(answer[0, ids.shape[1] :], skip_special_tokens=True))
