"""Fine-tuning: configuration, batches, the loop, checkpoints, and what a training will take."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "batches": ["encode_rows", "row_lengths", "shuffle_rows"],
        "config": ["TrainConfig", "learning_rate_at", "plan_updates", "train_config"],
        "device_report": ["device_report"],
        "distributed": ["Ranks"],
        "finetune": [
            "CODE",
            "Finetuning",
            "compare_histories",
            "count_within",
            "load_frozen",
            "load_trainable",
            "planned_rows",
            "prepare_finetuning",
            "reloaded_loss",
            "run_finetuning",
            "train_other_variants",
            "training_costs",
        ],
        "gpus": ["this_gpu"],
        "loop": ["TrainData", "train_model"],
        "model": ["adapter_config", "add_adapter", "load_every_weight", "load_frozen_base", "parse_target_modules"],
        "outlook": ["on_cards", "plan_both", "plan_rows"],
        "planner": ["Plan", "count_trainable", "resident_memory"],
        "run_record": ["History"],
        "step": ["autocast_to", "evaluate_loss"],
    },
)
