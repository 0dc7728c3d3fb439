module github.com/firnlog/firn/test/librdkafka

go 1.26.0

require (
	github.com/confluentinc/confluent-kafka-go/v2 v2.11.1
	github.com/firnlog/firn/test/clients v0.0.0
)

require golang.org/x/sys v0.49.0 // indirect

require (
	github.com/firnlog/firn v0.0.0
	github.com/twmb/franz-go v1.22.2 // indirect
	github.com/twmb/franz-go/pkg/kmsg v1.15.0 // indirect
)

replace github.com/firnlog/firn/test/clients => ../clients

replace github.com/firnlog/firn => ../..
