package commitlog

import (
	"sync/atomic"

	"github.com/VictoriaMetrics/metrics"
)

// All partitions share these: one series each, whatever the number of
// partitions.
var (
	appendedBytes    = metrics.NewCounter("firn_log_appended_bytes_total")
	appendedRecords  = metrics.NewCounter("firn_log_appended_records_total")
	appends          = metrics.NewCounter("firn_log_appends_total")
	appendsRefused   = metrics.NewCounter("firn_log_appends_refused_disk_full_total")
	segmentsRolled   = metrics.NewCounter("firn_log_segments_rolled_total")
	segmentsDeleted  = metrics.NewCounter("firn_log_segments_deleted_total")
	logTruncations   = metrics.NewCounter("firn_log_truncations_total")
	truncatedBytes   = metrics.NewCounter("firn_log_truncated_bytes_total")
	recoveries       = metrics.NewCounter("firn_log_recoveries_total")
	scannedBytes     = metrics.NewCounter("firn_log_recovery_scanned_bytes_total")
	refilledBytes    = metrics.NewCounter("firn_log_recovery_journal_bytes_total")
	tornBytes        = metrics.NewCounter("firn_log_recovery_torn_bytes_total")
	rebuiltIndexes   = metrics.NewCounter("firn_log_indexes_rebuilt_total")
	rebuiltProducers = metrics.NewCounter("firn_log_producer_states_rebuilt_total")
	checkedBytes     = metrics.NewCounter("firn_log_checked_bytes_total")
	corruptReads     = metrics.NewCounter("firn_log_corrupt_reads_total")
	corruptSegments  = metrics.NewCounter("firn_log_corrupt_segments_total")
	failedLogs       = metrics.NewCounter("firn_log_failed_total")
	syncs            = metrics.NewCounter("firn_log_syncs_total")
	producersEvicted = metrics.NewCounter("firn_log_producers_evicted_total")

	compactionKeyBytes = gauge("firn_log_compaction_key_bytes") // memory for keys of the compactions under way

	compactionRead    = metrics.NewCounter("firn_log_compaction_read_bytes_total")
	compactionWritten = metrics.NewCounter("firn_log_compaction_written_bytes_total")
	compactionRemoved = metrics.NewCounter("firn_log_compaction_removed_records_total")

	segmentsOpen   = gauge("firn_log_segments")
	sizeBytes      = gauge("firn_log_size_bytes")
	producersKnown = gauge("firn_log_producers")
	trashFiles     = gauge("firn_log_deleted_files_waiting")
	trashBytes     = gauge("firn_log_deleted_bytes_waiting")
)

func gauge(name string) *atomic.Int64 {
	var v atomic.Int64
	metrics.NewGauge(name, func() float64 { return float64(v.Load()) })
	return &v
}
