module github.com/firnlog/firn/test/librdkafka

go 1.26

require github.com/confluentinc/confluent-kafka-go/v2 v2.11.1
