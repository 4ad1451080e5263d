"""The buckets of embedded mode as S3, for programs that talk to an object store directly (OSCAR's clients do).

`rclone serve s3` speaks the protocol over the very folders that the directory store uses. In front of it stands a thin
server of ours (`front`), which refuses what a folder cannot hold, with a code that clients do not retry, and keeps the
port open while rclone is started again (`rclone`). One key pair, one user.
"""
