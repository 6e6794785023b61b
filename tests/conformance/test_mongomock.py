"""The shared suite on the MongoDB backend with mongomock in place of the driver: what an application's tests may use.

mongomock's writes are not atomic between threads, so nothing about leases is proved here; see ``test_mongo.py``.
"""

from __future__ import annotations

import uuid

from typing import ClassVar

import mongomock
import pytest

from pitstop.testing import BackendConformance
from pitstop_mongo import MongoBackend


class TestMongomock(BackendConformance):
    known_failures: ClassVar = {
        "leases are proved on a real server: mongomock's own writes are not atomic between threads": {
            "test_a_claim_never_brings_back_what_is_removed",
            "test_a_claim_never_holds_an_older_version_than_its_lease",
            "test_a_lease_is_settled_by_one_of_many",
            "test_a_nack_never_brings_back_what_is_removed",
            "test_a_record_is_deleted_by_one_of_many",
            "test_a_redrive_happens_once",
            "test_a_series_has_one_next_occurrence_however_many_work_on_it",
            "test_an_ack_against_an_expiry_has_one_winner",
            "test_an_ack_never_deletes_a_version_that_was_stored_since",
            "test_an_extension_against_a_new_claim_has_one_winner",
            "test_an_update_is_never_seen_half_done",
            "test_claimers_of_leases_that_ran_out_get_each_once",
            "test_concurrent_batches_over_the_same_ids_leave_one_record_each",
            "test_concurrent_stores_of_one_id_leave_one_whole_record",
            "test_many_claimers_lease_each_record_once",
            "test_many_claimers_who_settle_at_once_leave_nothing",
            "test_many_listeners_handle_each_message_once",
            "test_no_settlement_changes_a_version_that_was_stored_since",
            "test_threads_share_one_listener",
        },
    }

    @pytest.fixture
    def make_backend(self):
        client = mongomock.MongoClient(tz_aware=True)
        where = {"client": client, "dbname": "app", "coll": uuid.uuid4().hex}
        self.collection = client[where["dbname"]][where["coll"]]
        return lambda **options: MongoBackend.from_options({**where, **options})

    def damage(self, backend, id):
        result = self.collection.update_one({"_id": {"$eq": id}}, {"$set": {"msg": "no mapping"}})
        assert result.modified_count == 1
