"""What comes in: files of users, and the samples that are shipped."""
