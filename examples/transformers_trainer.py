"""Hugging Face's Trainer: a record without a target is skipped, and the tab shows the run.

python examples/transformers_trainer.py
"""

import torch
from pytorch_lightning.loggers import TensorBoardLogger
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, set_seed

from lightning_gradguard import GradGuard
from lightning_gradguard.transformers import GradGuardCallback

set_seed(0)
config = BertConfig(
    vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
    max_position_embeddings=16, num_labels=1, problem_type="regression",
)  # fmt: skip
model = BertForSequenceClassification(config)

ids = torch.randint(0, 50, (1600, 8))
scores = ids.float().mean(1) / 50
scores[320] = float("nan")
data = [{"input_ids": text, "labels": score} for text, score in zip(ids, scores, strict=True)]

guard, logger = GradGuard(), TensorBoardLogger("lightning_logs", name="transformers")
arguments = TrainingArguments(
    "trainer_output", per_device_train_batch_size=8, gradient_accumulation_steps=2, num_train_epochs=2,
    learning_rate=1e-3, use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True, logging_steps=50,
    dataloader_pin_memory=False,
)  # fmt: skip
trainer = Trainer(model, arguments, train_dataset=data, callbacks=[GradGuardCallback(guard, logger)])
result = trainer.train()

print(guard.report())
print(f"mean loss {result.training_loss:.3f}; see it: tensorboard --logdir lightning_logs")
