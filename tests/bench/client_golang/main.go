// The peer of tests/bench/scrape.py: the series of an exposition, served by client_golang.
//
// It reads an exposition in the text format from standard input, and serves the same series at /metrics.
// POST /change?percent=20 changes every fifth series. The first line of its output is its port.
package main

import (
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// A row has the metric of one label set, which a change moves on.
type row interface{ move() }

type counter struct{ prometheus.Counter }
type gauge struct{ prometheus.Gauge }
type histogram struct{ prometheus.Observer }

func (c counter) move()   { c.Inc() }
func (g gauge) move()     { g.Inc() }
func (h histogram) move() { h.Observe(1) }

func main() {
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(os.Stdin)
	if err != nil {
		log.Fatalf("standard input is not an exposition: %v", err)
	}
	registry := prometheus.NewRegistry()
	var rows []row
	for _, family := range families {
		rows = append(rows, add(registry, family)...)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	mux.HandleFunc("POST /change", func(_ http.ResponseWriter, request *http.Request) {
		percent, _ := strconv.Atoi(request.FormValue("percent"))
		for number, row := range rows {
			if number*percent%100 < percent {
				row.move()
			}
		}
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	log.Fatal(http.Serve(listener, mux))
}

// add registers a family with the values of the exposition, and returns its rows.
func add(registry *prometheus.Registry, family *dto.MetricFamily) []row {
	name, help, names := family.GetName(), family.GetHelp(), labelNames(family)
	var rows []row
	switch family.GetType() {
	case dto.MetricType_COUNTER:
		vec := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, names)
		registry.MustRegister(vec)
		for _, metric := range family.GetMetric() {
			one := vec.WithLabelValues(labelValues(metric)...)
			one.Add(metric.GetCounter().GetValue())
			rows = append(rows, counter{one})
		}
	case dto.MetricType_HISTOGRAM:
		bounds := upperBounds(family)
		vec := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: bounds}, names)
		registry.MustRegister(vec)
		for _, metric := range family.GetMetric() {
			one := vec.WithLabelValues(labelValues(metric)...)
			for _, bound := range bounds {
				one.Observe(bound)
			}
			rows = append(rows, histogram{one})
		}
	default:
		vec := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, names)
		registry.MustRegister(vec)
		for _, metric := range family.GetMetric() {
			one := vec.WithLabelValues(labelValues(metric)...)
			one.Set(metric.GetGauge().GetValue())
			rows = append(rows, gauge{one})
		}
	}
	return rows
}

func labelNames(family *dto.MetricFamily) []string {
	var names []string
	if len(family.GetMetric()) > 0 {
		for _, pair := range family.GetMetric()[0].GetLabel() {
			names = append(names, pair.GetName())
		}
	}
	return names
}

func labelValues(metric *dto.Metric) []string {
	var values []string
	for _, pair := range metric.GetLabel() {
		values = append(values, pair.GetValue())
	}
	return values
}

func upperBounds(family *dto.MetricFamily) []float64 {
	var bounds []float64
	if len(family.GetMetric()) > 0 {
		for _, bucket := range family.GetMetric()[0].GetHistogram().GetBucket() {
			bounds = append(bounds, bucket.GetUpperBound())
		}
	}
	return bounds
}
