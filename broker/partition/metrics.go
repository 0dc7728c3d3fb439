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
)
