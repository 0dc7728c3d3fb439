package controller

import "github.com/VictoriaMetrics/metrics"

var (
	changes   = metrics.NewCounter("firn_controller_partition_changes_total")
	elections = metrics.NewCounter("firn_controller_elections_total")
	shrinks   = metrics.NewCounter("firn_controller_isr_shrinks_total") // of those that leave with their broker
	failures  = metrics.NewCounter("firn_controller_failures_total")
	offline   = metrics.NewGauge("firn_controller_partitions_without_leader", nil)

	// Moves of replicas.
	moving      = metrics.NewGauge("firn_balance_moves_under_way", nil) // partitions whose replicas are being changed, whoever asked
	planned     = metrics.NewGauge("firn_balance_moves_planned", nil)   // and not begun yet
	movesBegun  = metrics.NewCounter("firn_balance_moves_total")
	stuck       = metrics.NewGauge("firn_balance_partitions_stuck", nil) // on drained brokers, and no other can take them
	score       = metrics.NewGauge("firn_balance_score", nil)            // of the last plan, before its moves; 0 is even
	planSeconds = metrics.NewHistogram("firn_balance_plan_seconds")
)
