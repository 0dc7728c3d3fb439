package journal

import "github.com/VictoriaMetrics/metrics"

var (
	groups           = metrics.NewCounter("firn_journal_syncs_total")
	journaledRecords = metrics.NewCounter("firn_journal_records_total")
	journaledBytes   = metrics.NewCounter("firn_journal_bytes_total")
	syncedBytes      = metrics.NewCounter("firn_journal_synced_bytes_total") // in segments, with a group
	truncations      = metrics.NewCounter("firn_journal_truncations_total")
	checkpoints      = metrics.NewCounter("firn_journal_checkpoints_total")
	appendsWaited    = metrics.NewCounter("firn_journal_appends_waited_total")
	fullWaits        = metrics.NewCounter("firn_journal_full_waits_total")
	withoutFile      = metrics.NewCounter("firn_journal_syncs_without_file_total") // disk full: groups that segments hold
	failures         = metrics.NewCounter("firn_journal_failures_total")
)
