"""Run folders: records that survive an interrupted process, what they were made with, and retries of failed batches."""
