package metastore

import (
	"time"

	"github.com/VictoriaMetrics/metrics"
)

// Gauges are set by whoever knows the value. When several stores live in one
// process (tests), the last one to write is seen.
var (
	metricImageRevision = metrics.GetOrCreateGauge(`firn_metastore_image_revision`, nil)
	metricTopics        = metrics.GetOrCreateGauge(`firn_metastore_topics`, nil)
	metricPartitions    = metrics.GetOrCreateGauge(`firn_metastore_partitions`, nil)
	metricRevision      = metrics.GetOrCreateGauge(`firn_metastore_revision`, nil)
	metricWatchLag      = metrics.GetOrCreateGauge(`firn_metastore_watch_lag_revisions`, nil)
	metricDBBytes       = metrics.GetOrCreateGauge(`firn_metastore_db_bytes`, nil)
	metricDBInUse       = metrics.GetOrCreateGauge(`firn_metastore_db_in_use_bytes`, nil)
	metricDBQuota       = metrics.GetOrCreateGauge(`firn_metastore_db_quota_bytes`, nil)
	metricQuotaWarning  = metrics.GetOrCreateGauge(`firn_metastore_quota_warning`, nil) // 1 above half of the quota
	metricNoSpace       = metrics.GetOrCreateGauge(`firn_metastore_no_space`, nil)      // 1 while etcd refuses writes
	metricLeaseHeld     = metrics.GetOrCreateGauge(`firn_metastore_lease_held`, nil)
	metricFenced        = metrics.GetOrCreateGauge(`firn_metastore_fenced`, nil)
	metricLeader        = metrics.GetOrCreateGauge(`firn_metastore_is_etcd_leader`, nil)
	metricController    = metrics.GetOrCreateGauge(`firn_metastore_is_controller`, nil)

	metricReloads         = metrics.GetOrCreateCounter(`firn_metastore_watch_reloads_total`)
	metricWatchStalls     = metrics.GetOrCreateCounter(`firn_metastore_watch_stalls_total`)
	metricDecodeErrors    = metrics.GetOrCreateCounter(`firn_metastore_decode_errors_total`)
	metricLeasesLost      = metrics.GetOrCreateCounter(`firn_metastore_leases_lost_total`)
	metricRenewErrors     = metrics.GetOrCreateCounter(`firn_metastore_lease_renew_errors_total`)
	metricCompactions     = metrics.GetOrCreateCounter(`firn_metastore_compactions_total`)
	metricDefrags         = metrics.GetOrCreateCounter(`firn_metastore_defragmentations_total`)
	metricLeftoverKeys    = metrics.GetOrCreateCounter(`firn_metastore_leftover_keys_collected_total`)
	metricPointerClash    = metrics.GetOrCreateCounter(`firn_metastore_pointer_conflicts_total`)
	metricRecordConflicts = metrics.GetOrCreateCounter(`firn_metastore_partition_record_conflicts_total`)
	metricRevoked         = metrics.GetOrCreateCounter(`firn_metastore_registrations_revoked_total`)
	metricUnsure          = metrics.GetOrCreateCounter(`firn_metastore_txn_attempts_unanswered_total`)
	metricMaintainFails   = metrics.GetOrCreateCounter(`firn_metastore_maintenance_errors_total`)
)

// observeTxn counts a transaction; op is one of a fixed set of names.
func observeTxn(op string, took time.Duration, err error) {
	metrics.GetOrCreateHistogram(`firn_metastore_txn_seconds{op="` + op + `"}`).Update(took.Seconds())
	if err != nil {
		metrics.GetOrCreateCounter(`firn_metastore_txn_errors_total{op="` + op + `"}`).Inc()
	}
}

func setBool(g *metrics.Gauge, on bool) {
	if on {
		g.Set(1)
	} else {
		g.Set(0)
	}
}
