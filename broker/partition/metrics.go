package partition

import "github.com/VictoriaMetrics/metrics"

var (
	appendsInvalid   = metrics.NewCounter("firn_partition_appends_invalid_total")
	sequencesRefused = metrics.NewCounter("firn_partition_sequences_refused_total")
	duplicates       = metrics.NewCounter("firn_partition_duplicates_total")
	producersExpired = metrics.NewCounter("firn_partition_producers_expired_total")
	corruptDropped   = metrics.NewCounter("firn_partition_corrupt_segments_healed_total")
	coldReads        = metrics.NewCounter("firn_partition_cold_reads_total")
	hotReads         = metrics.NewCounter("firn_partition_hot_reads_total")
	truncations      = metrics.NewCounter("firn_partition_truncations_total") // of followers whose log differed from their leader's
	restarts         = metrics.NewCounter("firn_partition_starts_anew_total") // of followers whose log ended before their leader's began
	// Of replicas that began at the tiered end: all, those that know no producers
	// and epochs from before, and look-ups of where that is that failed.
	tieredBeginnings     = metrics.NewCounter("firn_partition_tiered_beginnings_total")
	blindBeginnings      = metrics.NewCounter("firn_partition_tiered_beginnings_without_footer_total")
	tieredLookupFailures = metrics.NewCounter("firn_partition_tiered_lookup_failures_total")

	backgroundSyncs = metrics.NewCounter("firn_partition_background_syncs_total")

	cleanerRuns           = metrics.NewCounter("firn_cleaner_runs_total")
	cleanerFailures       = metrics.NewCounter("firn_cleaner_failures_total")
	cleanerSeconds        = metrics.NewHistogram("firn_cleaner_run_seconds")
	dirtyBytes            = metrics.NewGauge("firn_cleaner_dirty_bytes", nil)
	uncleanablePartitions = metrics.NewGauge("firn_cleaner_uncleanable_partitions", nil)
	cleanerLastLook       = metrics.NewGauge("firn_cleaner_last_look_timestamp_seconds", nil)
	cleanerLastRun        = metrics.NewGauge("firn_cleaner_last_run_timestamp_seconds", nil)
)
