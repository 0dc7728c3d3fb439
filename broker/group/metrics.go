package group

import "github.com/VictoriaMetrics/metrics"

var (
	metricGroups     = metrics.GetOrCreateGauge(`firn_group_groups`, nil)
	metricBytes      = metrics.GetOrCreateGauge(`firn_group_memory_bytes`, nil)
	metricOffsets    = metrics.GetOrCreateGauge(`firn_group_offsets`, nil)
	metricMembers    = metrics.GetOrCreateGauge(`firn_group_members`, nil)
	metricRebalances = metrics.GetOrCreateCounter(`firn_group_rebalances_total`)
	metricCommits    = metrics.GetOrCreateCounter(`firn_group_offset_commits_total`)
	metricExpired    = metrics.GetOrCreateCounter(`firn_group_offset_expirations_total`)
	metricDeleted    = metrics.GetOrCreateCounter(`firn_group_deletions_total`)
	metricSkipped    = metrics.GetOrCreateCounter(`firn_group_records_skipped_total`)
	metricAppendErrs = metrics.GetOrCreateCounter(`firn_group_append_errors_total`)
	metricAppended   = metrics.GetOrCreateCounter(`firn_group_appended_bytes_total`)
	metricSnapshots  = metrics.GetOrCreateCounter(`firn_group_snapshots_total`)
	metricLoad       = metrics.GetOrCreateHistogram(`firn_group_load_seconds`)
)

// What was refused because a limit was reached, by limit.
var (
	refusedMembers  = refusedFor("members") // of one group: Config.MaxSize
	refusedSize     = refusedFor("group_bytes")
	refusedGroups   = refusedFor("groups")
	refusedOffsets  = refusedFor("offsets") // of one group
	refusedMemory   = refusedFor("memory")
	refusedQueue    = refusedFor("queue")
	refusedMetadata = refusedFor("offset_metadata")
)

func refusedFor(limit string) *metrics.Counter {
	return metrics.GetOrCreateCounter(`firn_group_refused_total{limit="` + limit + `"}`)
}
