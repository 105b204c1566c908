"""Papers from PubMed, arXiv and files: fetching, parsing, screening."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "collect": [
            "collect_papers",
            "count_hits",
            "describe_route",
            "from_sample",
            "read_excluded_ids",
            "search_pubmed",
            "try_query",
        ],
        "duplicates": ["cluster_papers"],
        "http": ["Host", "Refused", "Transient", "Unfit", "Unreachable"],
        "paper": ["Paper", "Section", "normalise_text", "papers_from_json", "read_papers", "write_papers"],
        "pubmed_files": ["fetch_archive", "stream_papers"],
        "screening": ["screen_papers"],
        "topic": ["Topic", "is_abbreviation", "load_topic"],
    },
)
