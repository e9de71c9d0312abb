"""The attributes that a de-identified CR or DX image has. Every other attribute of the source is left out, private ones too.

The list follows table E.1-1 of PS3.15 for the Basic Profile with two options: Retain Patient Characteristics (E.3.4), and Retain
Longitudinal Temporal Information With Modified Dates (E.3.6).
"""

from __future__ import annotations

KEPT = (
    # what the image is
    *("SOPClassUID", "ImageType", "Modality", "PresentationIntentType", "InstanceNumber", "SeriesNumber"),
    # the body
    *("BodyPartExamined", "ViewPosition", "Laterality", "ImageLaterality", "PatientOrientation", "PositionerType", "PatientSex"),
    # the device
    *("Manufacturer", "ManufacturerModelName", "DetectorType", "DetectorConfiguration"),
    # the exposure
    *("KVP", "XRayTubeCurrent", "ExposureTime", "Exposure", "ExposureInuAs", "DistanceSourceToDetector", "DistanceSourceToPatient"),
    *("Grid", "FocalSpots", "FilterType", "Sensitivity", "RelativeXRayExposure", "ExposureIndex", "TargetExposureIndex"),
    "DeviationIndex",
    # the pixels
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsStored", "PixelRepresentation"),
    *("ImagerPixelSpacing", "PixelSpacing", "PixelSpacingCalibrationType", "EstimatedRadiographicMagnificationFactor"),
    *("PixelAspectRatio", "PixelPaddingValue", "PixelPaddingRangeLimit", "PixelIntensityRelationship"),
    *("PixelIntensityRelationshipSign", "WindowCenter", "WindowWidth", "VOILUTFunction", "RescaleIntercept", "RescaleSlope"),
    *("RescaleType", "PresentationLUTShape", "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
)
"""Kept as they are, where value and representation are those of the data dictionary."""

LOOKUP_TABLES = ("ModalityLUTSequence", "VOILUTSequence")
LOOKUP_TABLE_ATTRIBUTES = ("LUTDescriptor", "LUTData", "ModalityLUTType")
"""Attributes of an item of LOOKUP_TABLES; its explanation is free text, and left out."""

UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
"""Replaced by UIDs of the patient's key."""
DATES = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
"""Moved back by a number of days of the patient's key."""
EMPTY = (
    *("AccessionNumber", "ReferringPhysicianName", "StudyID", "StudyTime", "PatientBirthDate"),
    *("ContentTime", "AcquisitionTime"),
)
"""Written without a value, as the Basic Profile allows: the IOD asks for most of them."""
IDENTIFYING = (
    *("PatientName", "PatientID", "OtherPatientIDs", "OtherPatientNames", "AccessionNumber", "ReferringPhysicianName"),
    *("PatientBirthName", "PatientMotherBirthName", "InstitutionName", "StationName", "PhysiciansOfRecord", "OperatorsName"),
    *("PerformingPhysicianName", "RequestingPhysician", "DeviceSerialNumber", "StudyID", "PatientTelephoneNumbers"),
)
"""Attributes whose words must not stand in a kept text."""

BASIC_PROFILE = ("113100", "Basic Application Confidentiality Profile")
CLEAN_PIXEL_DATA = ("113101", "Clean Pixel Data Option")
MODIFIED_DATES = ("113107", "Retain Longitudinal Temporal Information Modified Dates Option")
PATIENT_CHARACTERISTICS = ("113108", "Retain Patient Characteristics Option")
"""Codes of CID 7050, scheme DCM."""
