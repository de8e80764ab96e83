"""From files to the bucket: commits, uploads in parts, promises in the journal, renames and copies."""
