"""meowtea: multi-turn reinforcement learning for LLM agents, one command line."""

__version__ = "0.1.0"
