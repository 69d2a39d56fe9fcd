-- Somebody new may come with many requests at once. ON CONFLICT knows one constraint, the primary key, and the others
-- fail where two insert the same row side by side. The id of a user is made of issuer and subject (tenancy/models.py), so
-- that the key keeps them apart as well.

ALTER TABLE members DROP CONSTRAINT members_org_id_issuer_subject_key;
