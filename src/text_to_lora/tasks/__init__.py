"""What is learned: tasks with descriptions, where they come from, and how they become batches."""
