package fetcher

import "github.com/VictoriaMetrics/metrics"

var (
	following       = metrics.NewGauge("firn_fetcher_replicas", nil)             // that are fetched at present
	fetches         = metrics.NewCounter("firn_fetcher_fetches_total")           // that were answered
	fetchedBytes    = metrics.NewCounter("firn_fetcher_bytes_total")             // of records
	fetchErrors     = metrics.NewCounter("firn_fetcher_connection_errors_total") // connections that failed, and answers that were errors
	partitionErrors = metrics.NewCounter("firn_fetcher_partition_errors_total")  // answers that a replica could not take in
)
