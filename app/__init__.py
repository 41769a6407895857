"""Everything that writes to the database because the business asked."""
