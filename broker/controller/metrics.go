package controller

import "github.com/VictoriaMetrics/metrics"

var (
	changes   = metrics.NewCounter("firn_controller_partition_changes_total")
	elections = metrics.NewCounter("firn_controller_elections_total")
	failures  = metrics.NewCounter("firn_controller_failures_total")
	offline   = metrics.NewGauge("firn_controller_partitions_without_leader", nil)
)
