"""Pictures from prompts: models, jobs for several ranks, and their launcher."""
