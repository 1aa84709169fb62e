-- Retention can archive instead of deleting: such a version can't be read either, but keeps its bytes until it is
-- deleted. Its state is 'deleted', so that what must leave deleted versions alone leaves it alone too.
ALTER TABLE version ADD COLUMN archived BOOLEAN NOT NULL DEFAULT FALSE;

-- Jobs that came to nothing are kept for longer than others, and must not be passed over again and again to find those.
DROP INDEX job_by_end;
CREATE INDEX job_by_end ON job (state, finished_at) WHERE finished_at IS NOT NULL;
